"""The library's choice of stored variants and Python's: random stores, one answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import quire
from policy_examples import Source
from quire import Context, ContextKind, Match, MatchKind, SegmentKind, ids
from quire.transformers import PlanSegment, ReusePlan
from quire.transformers.policies import QueryValue, parse_policy
from quire.transformers.policies.candidates import is_exact, neighbours_missing, stands_as_computed
from quire.transformers.sources import LOSSLESS_CODECS_MAX
from quire.transformers.stored_variants import StoredStatistics, VariantChoice

SEEDS = range(50)  # of odd ones the session is in a scope
REPLAY = "pytest tests/client/python/transformers/test_variant_choice.py -k 'seed{}'"
LAYER = quire.Layer(1, 4, 4, quire.RopeStyle.NEOX, quire.rope_frequencies(4))
CODECS = ("raw-f32", "raw-bf16", "int8-channel")
TIERS = (quire.Tier.GPU, quire.Tier.HOST, quire.Tier.NVME, quire.Tier.ROCKS)
POLICY = "query-value:0.15"
SCOPE = "alice"
VARIANTS_MAX = 7  # the server keeps eight of a text


@dataclass
class Store:
    """A prompt of a system text, chunks and a question, and what a server was given of it.

    neighbours: of synthetic variants, by variant id. texts: what contexts say that stood before.
    """

    random: np.random.Generator
    client: quire.Client
    model: quire.Model
    system: np.ndarray
    chunks: list[np.ndarray]
    neighbours: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    texts: dict[bytes | tuple[bytes, ...], np.ndarray] = field(default_factory=dict)

    @property
    def prompt(self) -> np.ndarray:
        return np.concatenate([self.system, *self.chunks, words(self.random, 9)])

    def object_of(self, tokens: np.ndarray) -> bytes:
        return ids.object_id(self.model.id, tokens, self.client.salt)

    def put(self, tokens: np.ndarray, context: Context, base_position: int, codec: str) -> None:
        plane = [np.ones((1, len(tokens), 4), np.float32)]
        self.client.put_arrays(
            self.model, tokens, plane, plane, codec=codec, context=context, base_position=base_position
        )
        if context.kind == ContextKind.SYNTHETIC:
            self.neighbours[ids.variant_id(self.object_of(tokens), context)] = context.neighbours

    def behind(self, tokens: np.ndarray) -> Context:
        digest = ids.prefix_digest(self.model.id, tokens, self.client.salt)
        self.texts[digest] = tokens
        return Context(ContextKind.FIXED_PREFIX, reference=digest)

    def beside(self, runs: list[np.ndarray]) -> Context:
        names = tuple(self.object_of(run) for run in runs)
        self.texts[names] = np.concatenate(runs)
        return Context(ContextKind.SYNTHETIC, neighbours=names, scope=self.client.scope)

    def stood_there(self, match: Match, prompt: np.ndarray) -> bool:
        """Whether a variant was computed at this very place behind the prompt's tokens before it."""
        name = self.neighbours.get(match.variant, match.context_reference)
        before = prompt[: match.token_begin]
        return (
            name in self.texts
            and np.array_equal(self.texts[name], before)
            and match.base_position == match.token_begin
        )

    def contexts(self, i: int) -> list[tuple[Context, int]]:
        """What a chunk may have been computed in, and at which position: what stands before it,
        parts of that, other orders, other texts, other places."""
        runs = [self.system, *self.chunks[:i]]
        before = np.concatenate(runs)
        other = words(self.random, int(self.random.integers(4, 40)))
        shuffled = [runs[j] for j in self.random.permutation(len(runs))]
        n = len(before)
        return [
            (Context(), int(self.random.choice([0, n]))),
            (Context(ContextKind.DUMMY_SINK, dummy_tokens=(3, 4), dropped_tokens=2), 0),
            (self.behind(self.system), len(self.system)),
            (self.behind(self.system[:5]), 5),
            (self.behind(before), int(self.random.choice([n, n, n + 1]))),
            (self.behind(other), len(other)),
            (self.behind(words(self.random, n)), n),
            (self.beside(runs), int(self.random.choice([n, n, n - 1]))),
            (self.beside(shuffled), n),
            (self.beside([before]), n),
            (self.beside([self.system, other]), len(self.system) + len(other)),
            (self.beside([*runs[1:], other]), n),
        ]

    def fill(self) -> None:
        for i, chunk in enumerate(self.chunks):
            contexts = self.contexts(i)
            chosen = self.random.permutation(len(contexts))[: int(self.random.integers(0, VARIANTS_MAX))]
            for j in chosen:
                for codec in self.random.choice(CODECS, int(self.random.integers(1, 3)), replace=False):
                    self.put(chunk, *contexts[j], codec=str(codec))


def words(random: np.random.Generator, n: int) -> np.ndarray:
    return random.integers(10, 1 << 20, n).astype(np.uint32)


@pytest.fixture(scope="module")
def clients(server: str) -> Iterator[list[quire.Client]]:
    with quire.connect(server) as tenant, quire.connect(server, scope=SCOPE) as scoped:
        assert tenant.scope == bytes(32)
        assert scoped.scope == ids.scope_id(scoped.salt, SCOPE)
        yield [tenant, scoped]


def store_of(client: quire.Client, seed: int) -> Store:
    random = np.random.default_rng(seed)
    # A model of its own: nothing of another seed is found.
    name = f"variant-choice-{seed}-{client.scope.hex()[:8]}"
    model = quire.Model(hashlib.sha256(name.encode()).digest(), b"\x32" * 32, (LAYER,))
    client.register_model(name, model)
    chunks = [words(random, int(n)) for n in random.integers(16, 60, int(random.integers(1, 5)))]
    if random.random() < 0.2:
        chunks.append(chunks[0])
    store = Store(random, client, model, words(random, 20), chunks)
    store.fill()
    return store


def matches_of(store: Store, prompt: np.ndarray) -> list[Match]:
    """Of the store, as if on several tiers. An exact prefix ends at the system text, inside the first
    chunk behind it, or is not there at all."""
    n_prefix = int(store.random.choice([0, 20, 20, 23, 27]))
    found = store.client.resolve(store.model.id, prompt, prefix=False)
    if n_prefix:
        start = Context(
            ContextKind.CONTEXTUAL,
            reference=ids.prefix_digest(store.model.id, prompt[:0], store.client.salt),
        )
        store.put(prompt[:n_prefix], start, 0, "raw-f32")
        found += store.client.resolve(store.model.id, prompt, chunks=False)
    loads = [1, 2, 2, 5]
    return [
        replace(
            match,
            tier=TIERS[int(store.random.integers(0, len(TIERS)))],
            load_us=int(store.random.choice(loads)),
        )
        for match in found
    ]


def reuse_plan(prompt: np.ndarray, segments: list[quire.Segment], choice: VariantChoice) -> ReusePlan:
    def source(segment: quire.Segment) -> Source | None:
        match = segment.match
        if match is None:
            return None
        tokens = prompt[match.token_begin : match.token_begin + match.n_tokens]
        lead = choice.lead_of(match, segments) if match.kind == MatchKind.CHUNK else ()
        return Source(tokens, match.base_position, context_kind=match.context_kind, lead_runs=lead)

    return ReusePlan(
        prompt,
        tuple(
            PlanSegment(s.kind, s.token_begin, s.n_tokens, source(s), s.source_begin, s.match)
            for s in segments
        ),
        len(prompt) - 1,
    )


def both(
    store: Store, prompt: np.ndarray, matches: list[Match], known: dict[bytes, StoredStatistics]
) -> tuple[list[quire.Segment], list[quire.Segment], VariantChoice]:
    """The library's plan, Python's over the cuts of a plan that looks at nothing."""
    client = store.client
    listed = [store.behind(store.system).reference, store.behind(words(store.random, 9)).reference]
    store.random.shuffle(listed)
    listed = listed[: int(store.random.integers(0, 3))]
    settings = {"fixed_prefixes": listed, "fresh_tail_tokens": 9, "skip_slow": False}
    identity = quire.Prompt(prompt, store.model.id, client.salt, client.scope)
    theirs = quire.plan(len(prompt), matches, policy=POLICY, prompt=identity, **settings)
    bare = quire.plan(len(prompt), matches, policy="reuse", **settings)
    choice = VariantChoice(
        store.model.id,
        client.salt,
        prompt,
        QueryValue(0.15),
        known,
        scope=client.scope,
        fixed_prefixes=listed,
    )
    return theirs, choice.choose(bare, matches), choice


def exact_of(segment: quire.Segment, segments: list[quire.Segment], choice: VariantChoice) -> bool:
    return segment.match is not None and is_exact(choice.candidate(segment.match, segments))


@pytest.fixture(scope="module")
def seen() -> set[str]:
    return set()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed{seed}")
def test_one_answer(clients: list[quire.Client], seen: set[str], seed: int) -> None:
    print("replay:", REPLAY.format(seed))
    store = store_of(clients[seed % 2], seed)
    prompt = store.prompt
    matches = matches_of(store, prompt)
    theirs, ours, choice = both(store, prompt, matches, {})
    plan = reuse_plan(prompt, ours, choice)
    for their, our, segment in zip(theirs, ours, plan.segments, strict=True):
        assert (our.kind, our.token_begin, our.n_tokens, our.source_begin, our.match) == (
            their.kind,
            their.token_begin,
            their.n_tokens,
            their.source_begin,
            their.match,
        )
        if our.kind != SegmentKind.CHUNK:
            continue
        assert our.match is not None
        assert exact_of(our, ours, choice) == their.exact == stands_as_computed(plan, segment)
        there = store.stood_there(our.match, prompt)
        assert there if their.exact else not there or our.match.variant in store.neighbours
        place = "tail" if our.source_begin else "whole"
        seen.add(f"{our.match.context_kind.name} {'exact' if their.exact else 'moved'} {place}")
        lossless = our.match.codec <= LOSSLESS_CODECS_MAX
        seen.add(f"{'lossless' if lossless else 'lossy'} {our.match.tier.name}")

    # With the names of neighbours Python knows more, and only of synthetic variants that do not
    # stand as they were computed: of these it takes one with more of its neighbours present.
    known = {variant: StoredStatistics(None, names) for variant, names in store.neighbours.items()}
    store.random = np.random.default_rng(seed)
    theirs, ours, choice = both(store, prompt, matches, known)
    for their, our in zip(theirs, ours, strict=True):
        if our.match == their.match:
            continue
        assert our.match is not None and their.match is not None
        kinds = (our.match.context_kind, their.match.context_kind)
        assert kinds == (ContextKind.SYNTHETIC, ContextKind.SYNTHETIC)
        assert not their.exact and not exact_of(our, ours, choice)
        missing = [neighbours_missing(choice.candidate(m, ours)) for m in (our.match, their.match)]
        assert missing[0] <= missing[1]
        seen.add("differs" if missing[0] < missing[1] else "differs in overlap")


def test_all_kinds_were_chosen(seen: set[str]) -> None:
    if len(seen) < 10:
        pytest.skip("only with all seeds")
    wanted = {
        f"{kind} {how}" for kind in ("FIXED_PREFIX", "SYNTHETIC") for how in ("exact whole", "moved whole")
    }
    wanted |= {
        "ISOLATED moved whole",
        "DUMMY_SINK moved whole",
        "FIXED_PREFIX exact tail",
        "SYNTHETIC exact tail",
        "SYNTHETIC moved tail",
    }
    wanted |= {"lossless HOST", "lossy HOST", "lossless ROCKS", "differs"}
    assert wanted <= seen, wanted - seen


def bare_choice(policy: str, **more: object) -> tuple[VariantChoice, list[quire.Segment], list[Match]]:
    """A prompt of a prefix and two chunks, without a store; what the second may have been computed
    in: behind all before it, behind the prefix and another text, behind the prefix as a text."""
    random = np.random.default_rng(3)
    runs = [words(random, 20), words(random, 30), words(random, 40)]
    prompt = np.concatenate([*runs, words(random, 9)])
    model, salt = b"\x01" * 32, b"\x02" * 16

    def name_of(run: np.ndarray) -> bytes:
        return ids.object_id(model, run, salt)

    def match(context: Context, base_position: int) -> Match:
        variant = ids.variant_id(name_of(runs[2]), context)
        known[variant] = StoredStatistics(None, context.neighbours)
        return Match(
            MatchKind.CHUNK,
            50,
            40,
            variant=variant,
            context_reference=context.reference,
            context_kind=context.kind,
            base_position=base_position,
        )

    known: dict[bytes, StoredStatistics] = {}
    names = tuple(name_of(run) for run in runs[:2])
    beginning = ids.prefix_digest(model, runs[0], salt)
    matches = [
        match(Context(ContextKind.FIXED_PREFIX, reference=beginning), 20),
        match(Context(ContextKind.SYNTHETIC, neighbours=names[::-1]), 50),
        match(Context(ContextKind.SYNTHETIC, neighbours=names), 50),
    ]
    segments = [
        quire.Segment(SegmentKind.PREFIX, 0, 20),
        quire.Segment(SegmentKind.FRESH, 20, 30),
        quire.Segment(SegmentKind.CHUNK, 50, 40, match=matches[0]),
        quire.Segment(SegmentKind.FRESH, 90, 9),
    ]
    return VariantChoice(model, salt, prompt, parse_policy(policy), known, **more), segments, matches


@pytest.mark.parametrize("policy", ["neighbours/query:0.2", "neighbours/query-value:0.2", "query-value:0.2"])
def test_kinds_of_one_rank(policy: str) -> None:
    """To neighbours/ everything is equal here: what stands as it was computed goes first, then what
    has more of its context in place; the text in front of everything is one run."""
    choice, segments, matches = bare_choice(policy)
    assert choice.choose(segments, matches)[2].match == matches[2]
    if policy == "neighbours/query:0.2":
        ranks = {parse_policy(policy).rank_candidate(choice.candidate(m, segments)) for m in matches}
        assert len(ranks) == 1
    assert choice.choose(segments, matches[:2])[2].match == matches[1]
    assert choice.choose(segments, matches[:1])[2].match == matches[0]
    # Other segments: nothing is kept of what stood before.
    joined = [quire.Segment(SegmentKind.FRESH, 0, 50), *segments[2:]]
    assert not is_exact(choice.candidate(matches[2], joined))
    assert is_exact(choice.candidate(matches[2], segments))


def test_copies_of_one_variant() -> None:
    """What stands as it was computed is lossless if it can be; the rest loads as soon as it can."""
    choice, segments, matches = bare_choice("query-value:0.2")
    alone = Match(MatchKind.CHUNK, 50, 40, codec=2)
    for match in matches[1:]:
        raw = replace(match, codec=2, tier=quire.Tier.NVME, load_us=400)
        int8 = replace(match, codec=16, tier=quire.Tier.HOST, load_us=20)
        for offered in ([raw, int8], [int8, raw]):
            planned = quire.plan(99, offered, policy="reuse", fresh_tail_tokens=9)[1].match
            assert planned == int8
            for own in (int8, alone):
                cuts = [*segments[:2], replace(segments[2], match=own), segments[3]]
                chosen = choice.choose(cuts, [alone, *offered])[2].match
                assert chosen == (raw if match == matches[2] else int8)
