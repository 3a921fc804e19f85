"""Train the two small causal language models of `linalign-lite demo`.

    python export/train_demo.py sample --teacher DIR --out samples.txt --stories 12000 --seed 1
    python export/train_demo.py train ash --stories FILE --extra samples.txt --out DIR
    python export/train_demo.py measure DIR --valid tinystories_valid.txt
    python export/train_demo.py sentences samples.txt --out public.txt

The two models, `ash` and `birch`, are independent: they differ in architecture, tokenizer, width,
seed and training text. `ash` trains on the even-numbered stories and text sampled from one teacher,
`birch` on the odd-numbered stories and text sampled from another. See export/README.md for the
commands that made the bundled files.

Needs export/requirements.txt (torch, transformers, tokenizers). Nothing here is imported by the
installed package.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_models import BOS, CONTEXT, EOS, RECIPES, UNK, new_model, optimizers, train_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

SEPARATOR = "<|endoftext|>"


def read_stories(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [s.strip() for s in text.split(SEPARATOR) if s.strip()]


def batches(
    documents: list[list[int]], eos: int, rng: np.random.Generator, rows: int
) -> Iterator[torch.Tensor]:
    """Rows of consecutive documents, each beginning with a document.

    So position 0 is always the start token, as in inference.
    """
    order: list[int] = []
    while True:
        out = np.empty((rows, CONTEXT), dtype=np.int64)
        for row in out:
            filled = 0
            while filled < CONTEXT:
                if not order:
                    order = rng.permutation(len(documents)).tolist()
                doc = [*documents[order.pop()], eos][: CONTEXT - filled]
                row[filled : filled + len(doc)] = doc
                filled += len(doc)
        yield torch.from_numpy(out)


@torch.no_grad()
def bits_per_character(model: Any, tok: Tokenizer, stories: list[str], eos: int) -> float:
    """Teacher-forced negative log-likelihood of all tokens, in bits per character.

    Every token is scored once. A story longer than the context is split into windows that overlap
    by half, each with the start token, so that every token has half a context before it.
    """
    model.eval()
    nats, chars = 0.0, 0
    for story in stories:
        bos, *ids = [*tok.encode(story).ids, eos]
        chars += len(story)
        scored = 0  # number of ids scored so far
        while scored < len(ids):
            start = max(0, scored - CONTEXT // 2)
            x = torch.tensor([[bos, *ids[start : start + CONTEXT - 1]]])
            logits = model(x).logits[0, scored - start : -1].double()
            truth = x[0, 1 + scored - start :]
            nats += float(torch.nn.functional.cross_entropy(logits, truth, reduction="sum"))
            scored = min(len(ids), start + CONTEXT - 1)
    model.train()
    return nats / chars / math.log(2)


def train(args: argparse.Namespace) -> None:
    recipe = RECIPES[args.name]
    torch.manual_seed(recipe.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    rng = np.random.default_rng(recipe.seed)
    stories = read_stories(args.stories)[recipe.parity :: 2]
    extra = [s for path in args.extra for s in read_stories(path)]
    if args.start:
        tok = Tokenizer.from_file(str(args.start / "tokenizer.json"))
    else:
        tok = train_tokenizer(args.name, stories + extra[:4000], recipe.vocab)
    eos = tok.token_to_id(EOS)
    documents = [e.ids for e in tok.encode_batch(stories * args.repeat + extra)]
    valid = read_stories(args.valid)[:60] if args.valid else []
    if args.start:
        model = AutoModelForCausalLM.from_pretrained(args.start)
        rng = np.random.default_rng(recipe.seed + 1)
    else:
        model = new_model(args.name, tok)
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{args.name}: {count:,} parameters, vocabulary {tok.get_vocab_size()}, {len(stories)} "
        f"stories x {args.repeat}, {len(extra)} samples, {sum(map(len, documents)):,} tokens",
        flush=True,
    )
    opts = optimizers(model, args.lr)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    stream = batches(documents, eos, rng, args.rows)
    started = time.monotonic()
    model.train()
    for step in range(args.steps):
        # warm up, hold, then decay to zero over the last part
        left = (args.steps - step) / args.steps
        scale = min(1.0, (step + 1) / 50, left / args.decay if args.decay else 1.0)
        for opt, lrs in zip(opts, base, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * scale
        x = next(stream)
        loss = model(x, labels=x).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        if step % 50 == 0:
            print(
                f"step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f}s", flush=True
            )
        if valid and step and step % 400 == 0:
            bpc = bits_per_character(model, tok, valid, eos)
            print(f"  step {step}: {bpc:.4f} bits per character", flush=True)
            save(args.out, args.name, model, tok)
    save(args.out, args.name, model, tok)
    print(f"saved to {args.out} after {time.monotonic() - started:.0f}s", flush=True)


def save(out: Path, name: str, model: Any, tok: Tokenizer) -> None:
    model.save_pretrained(out)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNK if name == "ash" else None,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)


@torch.no_grad()
def sample(args: argparse.Namespace) -> None:
    """Sample stories from a teacher at temperature 1, that is, from its own distribution."""
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.teacher).eval()
    tok = AutoTokenizer.from_pretrained(args.teacher)
    done, started = 0, time.monotonic()
    with args.out.open("w", encoding="utf-8") as f:
        while done < args.stories:
            n = min(args.batch, args.stories - done)
            start = torch.full((n, 1), model.config.bos_token_id)
            out = model.generate(
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                top_k=0,
                temperature=1.0,
                max_length=args.max_tokens,
                pad_token_id=model.config.eos_token_id,
            )
            for text in tok.batch_decode(out, skip_special_tokens=True):
                if text.strip():
                    f.write(text.strip() + "\n" + SEPARATOR + "\n")
            done += n
            print(f"{done} stories {time.monotonic() - started:.0f}s", flush=True)
            f.flush()


def sentences(args: argparse.Namespace) -> None:
    """Write distinct sentences of 4 to 20 words without quotation marks, as many from each file."""
    rng = np.random.default_rng(args.seed)
    chosen: list[str] = []
    for path in args.stories:
        text = " ".join(read_stories(path)).replace("\n", " ")
        found = {s.strip() for s in re.split(r"(?<=[.!?]) ", text)} - set(chosen)
        plain = [s for s in sorted(found) if re.fullmatch(r"[A-Z][A-Za-z' ,]+[.!?]", s)]
        fit = [s for s in plain if 4 <= len(s.split()) <= 20]
        count = args.count // len(args.stories)
        chosen += [fit[i] for i in rng.permutation(len(fit))[:count]]
    rng.shuffle(chosen)
    args.out.write_text("".join(s + "\n" for s in chosen), encoding="utf-8")
    print(f"{len(chosen)} sentences")


def measure(args: argparse.Namespace) -> None:
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    tok = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    bpc = bits_per_character(model, tok, read_stories(args.valid), tok.token_to_id(EOS))
    print(f"{bpc:.4f} bits per character on {args.valid.name}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sub = parser.add_subparsers(required=True)
    p = sub.add_parser("sample")
    p.add_argument("--teacher", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--stories", type=int, default=12000)
    p.add_argument("--batch", type=int, default=500)
    p.add_argument("--max-tokens", type=int, default=512)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=0)
    p.set_defaults(run=sample)
    p = sub.add_parser("train")
    p.add_argument("name", choices=sorted(RECIPES))
    p.add_argument("--stories", type=Path, required=True)
    p.add_argument("--extra", type=Path, action="append", default=[])
    p.add_argument("--valid", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--rows", type=int, default=8)
    p.add_argument("--repeat", type=int, default=2, help="copies of each real story")
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--decay", type=float, default=0.5, help="share of the steps that decay")
    p.add_argument("--start", type=Path, help="continue training this folder's model")
    p.add_argument("--threads", type=int, default=0)
    p.set_defaults(run=train)
    p = sub.add_parser("sentences")
    p.add_argument("stories", type=Path, nargs="+")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--count", type=int, default=4000)
    p.add_argument("--seed", type=int, default=5)
    p.set_defaults(run=sentences)
    p = sub.add_parser("measure")
    p.add_argument("model", type=Path)
    p.add_argument("--valid", type=Path, required=True)
    p.set_defaults(run=measure)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
