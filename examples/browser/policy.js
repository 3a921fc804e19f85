// Narrows the page's policy to this server and the one service that its address names
// (?service=https://provider:8443): nothing can be sent anywhere else.
{
  let service = "";
  try {
    service = new URL(new URLSearchParams(location.search).get("service")).origin;
  } catch {} // none, or no address
  const policy = document.createElement("meta");
  policy.httpEquiv = "Content-Security-Policy";
  policy.content = `connect-src 'self' ${/^https?:[\w.:/[\]-]+$/.test(service) ? service : ""}`;
  document.head.append(policy);
}
