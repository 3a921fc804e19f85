"""Search between two models: `demo search`, and either side's map, over files and a service."""

import json
import stat

import numpy as np
import pytest
from command_line import refused, run
from served import serving

import linalign_lite as la
from linalign_lite import demo
from linalign_lite.commands import main
from linalign_lite.retrieval.measures import ndcg

TOLERANCE = 0.002  # of nDCG@10: rounding of rows moves it by 3e-4, noise by 2e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder, and what is printed."""
    folder = tmp_path_factory.mktemp("demo") / "search"
    return folder, run("demo", "search", "--out", folder).stdout


def test_encrypted_search_finds_what_the_same_search_in_the_clear_does(found):
    folder, said = found
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["documents"] == 295
    assert figures["queries"] == 145
    assert figures["overlap"] > 0.97
    assert figures["largest_error"] < 0.01
    assert figures["encrypted"] == pytest.approx(figures["clear"], abs=0.03)
    assert figures["encrypted"] > 0.45  # of five topics
    assert figures["native"] > figures["clear"]
    assert figures["query_bytes"] == (folder / "exchange" / "one.query").stat().st_size
    assert "query: We had chicken and rice for dinner." in said
    assert "  We had pizza and salad for dinner.\n" in said


def test_the_command_that_it_prints_shows_the_best_documents(found):
    folder, said = found
    program, *words = said.splitlines()[-1].split()
    assert program == "linalign-lite"
    lines = run(*words).stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split()[2] == "We%20had%20pizza%20and%20salad%20for%20dinner."
    index = la.open_index(folder / "provider" / "documents.index")
    assert index.ids[0] == demo.labelled_texts(held_out=False).texts[0]


def test_what_travels_holds_no_secret_and_no_query(found):
    folder, _ = found
    key = folder / "client" / "keys" / "secret.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret, queries = key.read_bytes(), demo.labelled_texts(held_out=True).texts
    for file in (folder / "exchange").iterdir():
        content = file.read_bytes()
        assert secret[200:232] not in content
        assert not any(text.encode() in content for text in queries)


def test_what_is_no_demo_or_no_new_folder_is_refused(here, capsys):
    assert "classifier" in refused(capsys, "demo", "nothing")
    (here / "x").mkdir()
    (here / "x" / "mine").write_text("keep")
    said = refused(capsys, "demo", "search", "--out", "x")
    assert "is already there and is not an empty folder" in said


# --- either side has the map --------------------------------------------------------------------


def clear_ndcg(queries, documents):
    """nDCG@10 of cosines of float vectors."""
    return of_topics(la.search(queries, documents, 10)[0])


def of_topics(rows):
    """nDCG@10 where every document on the query's topic is relevant."""
    labels = np.array(demo.labelled_texts(held_out=False).labels)
    asked = demo.labelled_texts(held_out=True).labels
    grades = [dict.fromkeys(np.flatnonzero(labels == own).tolist(), 1) for own in asked]
    return ndcg(np.asarray(rows), grades, 10).mean()


def rows_of(printed):
    """Rows of the documents in what `decrypt` or `ask` printed with --json."""
    place = {text: i for i, text in enumerate(demo.labelled_texts(held_out=False).texts)}
    found = json.loads(printed)["found"]
    return [[place[document["id"]] for document in one["documents"]] for one in found]


@pytest.fixture(scope="module")
def ways(found, tmp_path_factory):
    """The index of each way, the words with which clients ask, and nDCG@10 in the clear."""
    folder, out = found[0], tmp_path_factory.mktemp("ways")
    provider, client = folder / "provider", folder / "client"
    queries = la.load_states(client / "queries.states.npz")
    documents = la.read_states(provider / "documents.jsonl")
    theirs = la.load_map(client / "client-to-provider.map.npz")
    back, _ = la.fit_retrieval(
        la.load_states(folder / "exchange" / "provider.public.states.npz"),
        la.load_states(client / "public.states.npz"),
        use="documents",
    )
    la.save(out / "back.map.npz", back)
    mapped, index = out / "mapped.jsonl", out / "mapped.index"
    assert main(["apply", f"{out}/back.map.npz", f"{provider}/documents.jsonl", str(mapped)]) == 0
    assert main(["index", "build", str(mapped), str(index)]) == 0
    words = ["--map", str(client / "client-to-provider.map.npz")]
    clear = clear_ndcg(theirs.apply(queries.states), documents.states)
    folded = clear_ndcg(queries.states, back.apply(documents.states))
    return {
        "the client maps queries": (provider / "documents.index", words, clear),
        "the provider maps documents": (index, [], folded),
    }


WAYS = pytest.mark.parametrize("way", ["the client maps queries", "the provider maps documents"])


@WAYS
def test_over_files_a_ranking_is_that_of_the_map_in_the_clear(found, ways, way, tmp_path, capsys):
    client, (index, words, clear) = found[0] / "client", ways[way]
    query, response, keys = tmp_path / "q", tmp_path / "r", str(client / "keys")
    states, card = str(client / "queries.states.npz"), str(index / "index.json")
    for command in (
        ["encrypt", states, query, "--key", keys, "--index", card, *words],
        ["score", query, response, "--index", index, "--public", keys],
    ):
        assert main([str(word) for word in command]) == 0
    capsys.readouterr()
    words = ["--key", keys, "--query", str(query), "--index", card, "--top", "10", "--json"]
    assert main(["decrypt", str(response), *words]) == 0
    assert of_topics(rows_of(capsys.readouterr().out)) == pytest.approx(clear, abs=TOLERANCE)
    assert clear > 0.4  # 0.2 by chance


def test_over_a_service_a_ranking_is_that_of_the_map_in_the_clear(found, ways, tmp_path, capsys):
    lines, names = ['keys = "registered"', "port = 0"], {}
    for number, (way, (index, _, _)) in enumerate(ways.items()):
        names[way] = f"way{number}"
        lines += ["[[heads]]", f'name = "{names[way]}"', f'file = "{index}"']
    (tmp_path / "service.toml").write_text("\n".join(lines) + "\n")
    client = found[0] / "client"
    with serving(tmp_path / "service.toml") as served:
        for way, (_, words, clear) in ways.items():
            asked = ["ask", served.url, str(client / "queries.states.npz"), "--head", names[way]]
            asked += ["--key", str(client / "keys"), "--top", "10", "--json", *words]
            capsys.readouterr()
            assert main(asked) == 0
            assert of_topics(rows_of(capsys.readouterr().out)) == pytest.approx(
                clear, abs=TOLERANCE
            )
        assert served.stop() == 0
