"""What a scoring pass has to compute, without torch: prompts and answers as trees of tokens, and trees as batches.

The continuations of one prompt form a tree: what they share is computed once. A token is sent through the model only
if something comes after it, so many one-token candidates of a prompt cost no more than the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from unbench.engines.base import ScoreRequest

MAX_PADDING = 1.08
"""A batch is closed before its padded size passes this share of its tokens (Must hold: at most 1.10)."""


@dataclass
class Row:
    """One sequence of a forward pass: a prompt and the tree behind it, every parent before its children."""

    tokens: list[int]
    parents: list[int]
    """Index of each token's predecessor; -1 for the first."""
    wanted: list[tuple[int, int, int]] = field(default_factory=list)
    """(position, token, slot): the log-probability of ``token`` after the prefix that ends at ``position`` goes to
    ``slot`` of the pass's results."""

    @property
    def is_chain(self) -> bool:
        """No branching: an ordinary sequence under the ordinary causal mask."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    @property
    def positions(self) -> list[int]:
        """Each token's distance from the start of its own sequence."""
        depth: list[int] = []
        for parent in self.parents:
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
        return depth


@dataclass
class Plan:
    """Rows to compute, and where each request's answers lie in the results: one slot a token of a continuation."""

    rows: list[Row]
    slots: list[list[list[int]]]
    """Per request, per continuation, per token: the slot."""
    n_slots: int


def plan(requests: Sequence[ScoreRequest]) -> Plan:
    """One row a distinct prompt; equal prompts and equal continuations are computed once."""
    trees: dict[tuple[int, ...], _Tree] = {}
    slots: list[list[list[int]]] = []
    counter = iter(range(1 << 62))
    for request in requests:
        if not request.prompt or not all(request.continuations):
            raise ValueError("a score request needs a prompt token and no empty continuation")
        key = tuple(request.prompt)
        tree = trees.setdefault(key, _Tree(len(key), counter))
        slots.append([tree.add(continuation) for continuation in request.continuations])
    rows = [row for row in (tree.row(prompt) for prompt, tree in trees.items()) if row.wanted]
    return Plan(rows, slots, next(counter))


class _Tree:
    """Continuations of one prompt. A node is a token that something follows; node 0 is the prompt's last token."""

    def __init__(self, prompt: int, counter: Iterator[int]) -> None:
        self._offset = prompt - 1
        self._counter = counter
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._slots: dict[tuple[int, int], int] = {}

    def add(self, continuation: Sequence[int]) -> list[int]:
        node, path = 0, []
        last = len(continuation) - 1
        for depth, token in enumerate(continuation):
            edge = (node, token)
            slot = self._slots.get(edge)
            if slot is None:
                slot = self._slots[edge] = next(self._counter)
            path.append(slot)
            if depth < last:
                child = self._nodes.get(edge)
                if child is None:
                    self._tokens.append(token)
                    self._parents.append(node)
                    child = self._nodes[edge] = len(self._tokens)
                node = child
        return path

    def row(self, prompt: tuple[int, ...]) -> Row:
        at = self._offset
        parents = [*range(-1, len(prompt) - 1), *(at + parent for parent in self._parents)]
        wanted = [(at + node, token, slot) for (node, token), slot in self._slots.items()]
        return Row([*prompt, *self._tokens], parents, wanted)


def chains(row: Row) -> list[Row]:
    """A tree as ordinary sequences, one a leaf, for models that can't take a tree; the prompt is then repeated."""
    inner = set(row.parents)
    leaves = [i for i in range(len(row.tokens)) if i not in inner]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for position, token, slot in row.wanted:
        wanted.setdefault(position, []).append((token, slot))
    rows = []
    for leaf in leaves:
        path = [leaf]
        while row.parents[path[-1]] >= 0:
            path.append(row.parents[path[-1]])
        path.reverse()
        chain = Row([row.tokens[i] for i in path], list(range(-1, len(path) - 1)))
        for at, i in enumerate(path):
            # The first leaf that passes a node answers for it.
            chain.wanted += [(at, token, slot) for token, slot in wanted.pop(i, [])]
        rows.append(chain)
    return rows


def batches(
    rows: Sequence[Row], fits: Callable[[int, int, int], bool], max_rows: int | None = None
) -> Iterator[list[Row]]:
    """Rows of like length together, the longest first so that a lack of memory shows at once.

    ``fits(rows, length, wanted)`` says whether a batch of that shape, with that many positions to read, may be
    formed; a single row is a batch even where it does not fit.
    """
    batch: list[Row] = []
    tokens = wanted = 0
    for row in sorted(rows, key=lambda r: len(r.tokens), reverse=True):
        reads = len({position for position, _, _ in row.wanted})
        if batch:
            length = len(batch[0].tokens)
            padded = length * (len(batch) + 1)
            full = len(batch) == max_rows or padded > MAX_PADDING * (tokens + len(row.tokens))
            if full or not fits(len(batch) + 1, length, wanted + reads):
                yield batch
                batch, tokens, wanted = [], 0, 0
        batch.append(row)
        tokens += len(row.tokens)
        wanted += reads
    if batch:
        yield batch
