"""Plans, and the query-guided rule against numpy."""

import math

import numpy as np
import pytest
import quire
from quire import Match, MatchKind, Segment, SegmentKind


def chunk(begin: int, count: int, **changes: object) -> Match:
    return Match(MatchKind.CHUNK, begin, count, codec=16, **changes)


def prefix(begin: int, count: int) -> Match:
    return Match(MatchKind.PREFIX, begin, count, codec=1)


def test_plan_covers_the_prompt() -> None:
    matches = [prefix(0, 64), chunk(64, 100), chunk(200, 50)]
    segments = quire.plan(300, matches, fresh_tail_tokens=20)
    assert [(s.kind.name, s.token_begin, s.n_tokens) for s in segments] == [
        ("PREFIX", 0, 64),
        ("CHUNK", 64, 100),
        ("FRESH", 164, 36),
        ("CHUNK", 200, 50),
        ("FRESH", 250, 50),
    ]
    assert segments[0].match is matches[0]
    assert segments[3].match is matches[2]
    assert segments[4].match is None


def test_policy_shapes_the_plan() -> None:
    matches = [prefix(0, 64), chunk(64, 100)]
    kinds = {
        policy: [s.kind.name for s in quire.plan(300, matches, policy=policy)]
        for policy in ("full", "prefix", "reuse", "link0")
    }
    assert kinds == {
        "full": ["FRESH"],
        "prefix": ["PREFIX", "FRESH"],
        "reuse": ["PREFIX", "CHUNK", "FRESH"],
        "link0": ["PREFIX", "FRESH"],
    }


def test_variant_behind_the_deployments_prefix_wins() -> None:
    own, other = bytes([1] * 32), bytes([2] * 32)
    kind = quire.ContextKind.FIXED_PREFIX
    matches = [
        chunk(0, 50),
        chunk(0, 50, context_kind=kind, context_reference=other),
        chunk(0, 50, context_kind=kind, context_reference=own),
    ]
    assert quire.plan(60, matches, fixed_prefixes=[own])[0].match is matches[2]
    assert quire.plan(60, matches)[0].match is matches[0]


def test_slow_matches() -> None:
    slow = chunk(0, 50, load_us=20, recompute_us=10)
    assert [s.kind.name for s in quire.plan(60, [slow])] == ["FRESH"]
    assert [s.kind.name for s in quire.plan(60, [slow], skip_slow=False)] == ["CHUNK", "FRESH"]


def test_bad_input_is_refused() -> None:
    with pytest.raises(quire.InvalidArgument, match="epic:K"):
        quire.plan(60, [], policy="blend:0.2")
    with pytest.raises(quire.InvalidArgument, match="outside the prompt"):
        quire.plan(60, [chunk(50, 11)])
    with pytest.raises(quire.InvalidArgument, match="last token"):
        quire.select_rows([Segment(SegmentKind.CHUNK, 0, 10)], policy="reuse")
    segments = quire.plan(60, [chunk(0, 50)])
    with pytest.raises(quire.InvalidArgument, match="column mass"):
        quire.select_rows(segments)
    with pytest.raises(ValueError, match="60 values"):
        quire.select_rows(segments, np.zeros(59))
    with pytest.raises(quire.NonFinite):
        quire.select_rows(segments, np.full(60, np.nan))


def random_segments(source: np.random.Generator) -> list[Segment]:
    segments, begin = [], 0
    for _ in range(int(source.integers(0, 9))):
        kind, count = SegmentKind(int(source.integers(0, 3))), int(source.integers(1, 300))
        segments.append(Segment(kind, begin, count))
        begin += count
    segments.append(Segment(SegmentKind.FRESH, begin, 7))
    return segments


@pytest.mark.parametrize("ties", [False, True])
def test_query_guided_rows_are_numpys(ties: bool) -> None:
    seed = 31
    source = np.random.default_rng(seed)
    for _ in range(300):
        segments = random_segments(source)
        n_tokens = segments[-1].token_begin + segments[-1].n_tokens
        mass = source.random(n_tokens).astype(np.float32)
        if ties:
            mass = np.floor(mass * 4) / 4 * source.choice([1.0, -1.0], n_tokens)
        share = float(source.choice([0.0, 0.05, 0.15, 0.3, 0.07, 1.0, round(source.random(), 3)]))
        tokens = np.concatenate(
            [
                np.arange(s.token_begin, s.token_begin + s.n_tokens)
                for s in segments
                if s.kind == SegmentKind.CHUNK
            ]
            or [np.array([], dtype=int)]
        )
        k = math.ceil(share * len(tokens))
        expected = np.sort(tokens[np.argsort(-mass[tokens], kind="stable")[:k]])
        rows = quire.select_rows(segments, mass, policy=f"query:{share}")
        assert rows.tolist() == expected.tolist(), f"seed {seed}, share {share}"


def test_rows_after_a_pass_of_the_question() -> None:
    segments = [
        Segment(SegmentKind.CHUNK, 0, 10),
        Segment(SegmentKind.CHUNK, 10, 10),
        Segment(SegmentKind.FRESH, 20, 3),
    ]
    mass = np.zeros(23)
    mass[4], mass[15] = 2.0, 3.0

    def rows(layers: int, parts: list[Segment] = segments) -> list[int]:
        return quire.select_rows(parts, mass, layers_run=layers, n_layers=4).tolist()

    # A layer of four costs .0375 of 20 tokens; the pass may take .05.
    assert quire.DEFAULT_POLICY == "query-value:0.15"
    assert quire.question_layers(segments, 4) == 1
    assert quire.question_layers(segments, 4, [1, 3]) == 0
    assert quire.question_layers(segments, 4, policy="query-value:0.5") == 4
    assert quire.question_layers(segments, 4, [1, 2], policy="query:0.1") == 3
    assert rows(1) == [14, 15] and rows(2) == [15 - 1] and rows(4) == []
    exact = Segment(SegmentKind.CHUNK, 10, 10, exact=True)
    assert rows(1, [segments[0], exact, segments[2]]) == [3, 4]
    assert quire.select_rows(segments, layers_run=0, n_layers=4).tolist() == []
    with pytest.raises(quire.InvalidArgument, match="layers"):
        rows(5)
    with pytest.raises(quire.InvalidArgument, match="ascend"):
        quire.question_layers(segments, 4, [2, 1])
    with pytest.raises(quire.InvalidArgument, match="column mass"):
        quire.select_rows(segments, layers_run=1, n_layers=4)


def test_chunks_that_stand_as_computed() -> None:
    model, salt, scope = bytes([5] * 32), b"salt" * 4, bytes([6] * 32)
    tokens = np.arange(100, 190, dtype=np.uint32)
    kinds = quire.ContextKind

    def stored(begin: int, context: quire.Context) -> Match:
        owner = quire.ids.object_id(model, tokens[begin : begin + 30], salt)
        return chunk(
            begin,
            30,
            variant=quire.ids.variant_id(owner, context),
            context_kind=context.kind,
            context_reference=context.reference,
            base_position=begin,
        )

    system = quire.ids.prefix_digest(model, tokens[:20], salt)
    first = stored(20, quire.Context(kinds.FIXED_PREFIX, reference=system))
    runs = tuple(quire.ids.object_id(model, part, salt) for part in (tokens[:20], tokens[20:50]))
    second = stored(50, quire.Context(kinds.SYNTHETIC, neighbours=runs, scope=scope))

    def exact(**changes: object) -> list[bool]:
        named = {"tokens": tokens, "model": model, "salt": salt, "scope": scope, **changes}
        segments = quire.plan(90, [prefix(0, 20), first, second], prompt=quire.Prompt(**named))
        return [s.exact for s in segments]

    assert exact() == [False, True, True, False]
    assert exact(scope=bytes(32)) == [False, True, False, False]
    assert exact(salt=b"") == exact(model=bytes(32)) == [False] * 4
    other = tokens.copy()
    other[3] += 1
    assert exact(tokens=other) == [False] * 4
    assert not any(s.exact for s in quire.plan(90, [prefix(0, 20), first, second]))
    with pytest.raises(quire.InvalidArgument, match="89 tokens"):
        exact(tokens=tokens[:89])
