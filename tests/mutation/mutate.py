"""`python tests/mutation/mutate.py [--module NAME] [--sample N]`: small mistakes in the modules of `targets.py`.

Each mutant is one change of one module's syntax tree, tried in a fork of this process that has everything else imported
already. It is killed when a test fails, or runs twenty times as long as all of them together. Prints the survivors and
the score; exits 1 below `LEAST`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.machinery
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "runner")]

import pytest  # noqa: E402

from mutation.targets import TARGETS  # noqa: E402

#: Share of mutants that the tests must kill.
LEAST = 0.9
PATIENCE = 20
_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
            ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.BitOr: ast.BitAnd, ast.FloorDiv: ast.Mult}


def mutations(node: Any) -> Iterator[tuple[str, Any]]:
    """Changed copies of one node, with what was changed."""
    if isinstance(node, ast.Compare):
        yield "comparison", ast.Compare(node.left, [_COMPARE[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield "and/or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield "an operand less", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "no not", node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield "operator", ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant) and not isinstance(node.value, str) and node.value is not Ellipsis:
        yield "constant", ast.Constant(_other(node.value))
    elif isinstance(node, (ast.If, ast.While)):
        yield "never", type(node)(ast.Constant(False), node.body, node.orelse)
    elif isinstance(node, ast.IfExp):
        yield "always the first", node.body
        yield "always the other", node.orelse
    elif isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield "statement removed", ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield "returns None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Call) and len(node.args) > 1 and not _is_symmetric(node):
        yield "arguments swapped", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if value is None:
        return 1
    return value + b"x" if isinstance(value, bytes) else value + 1


def _is_symmetric(call: ast.Call) -> bool:
    is_extreme = isinstance(call.func, ast.Name) and call.func.id in ("min", "max")
    return is_extreme or any(isinstance(argument, ast.Starred) for argument in call.args)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class _Changer(ast.NodeTransformer):
    """Finds the n-th mutation; with n out of range it counts them."""

    def __init__(self, n: int) -> None:
        self.n, self.count, self.what = n, 0, ""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and not node.col_offset:
            return node  # the name of a type
        for what, changed in mutations(node):
            self.count += 1
            if self.count - 1 == self.n:
                self.what = f"{getattr(node, 'lineno', 0)}: {what}: {ast.unparse(node).splitlines()[0]}"
                return ast.copy_location(changed, node)
        return super().visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_arguments(self, node: ast.arguments) -> Any:
        return node  # annotations and defaults


class _Finder(importlib.machinery.SourceFileLoader):
    """Loads the changed tree in place of a module's file."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, self.path, "exec")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name == self.name:
            return importlib.machinery.ModuleSpec(name, self, origin=self.path)
        return None


def source_path(module: str) -> Path:
    return ROOT / "runner" / (module.replace(".", "/") + ".py")


def tried(module: str, n: int, tests: list[str], most_s: float) -> tuple[bool, str]:
    """Whether the tests kill the n-th mutant (none: -1), and what it is."""
    changer = _Changer(n)
    tree = ast.fix_missing_locations(changer.visit(ast.parse(source_path(module).read_text())))
    pid = os.fork()
    if not pid:
        _try(module, tree, tests)
    deadline = time.monotonic() + most_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status != 0, changer.what
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True, changer.what
        time.sleep(0.02)


def _try(module: str, tree: ast.Module, tests: list[str]) -> None:
    """In the fork: never returns."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    finder = _Finder(module, str(source_path(module)))
    finder.tree = tree
    sys.meta_path.insert(0, finder)
    status = 1
    with contextlib.suppress(BaseException):
        status = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:xdist", "--tb=no", *tests]))
    os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", choices=sorted(TARGETS), action="append")
    parser.add_argument("--sample", type=int, help="so many mutants of each module")
    asked = parser.parse_args()
    os.chdir(ROOT)
    for name in ("greenlet", "hypothesis", "msgspec"):
        importlib.import_module(name)  # once, for all forks

    n_killed = n_all = 0
    for module in asked.module or TARGETS:
        tests = TARGETS[module]
        started = time.monotonic()
        if tried(module, -1, tests, 600.0)[0]:
            print(f"{module}: the tests fail without a mutant")
            return 1
        most_s = PATIENCE * (time.monotonic() - started)
        counter = _Changer(-1)
        counter.visit(ast.parse(source_path(module).read_text()))
        chosen = list(range(counter.count))
        if asked.sample:
            chosen = sorted(random.Random(0).sample(chosen, min(asked.sample, len(chosen))))
        killed = 0
        for n in chosen:
            is_killed, what = tried(module, n, tests, most_s)
            killed += is_killed
            if not is_killed:
                print(f"  survived: {module}:{what}", flush=True)
        print(f"{module}: {killed} of {len(chosen)} killed, {100 * killed / len(chosen):.1f} %", flush=True)
        n_killed, n_all = n_killed + killed, n_all + len(chosen)
    print(f"{n_killed} of {n_all} killed, {100 * n_killed / n_all:.1f} %")
    return int(n_killed < LEAST * n_all)


if __name__ == "__main__":
    sys.exit(main())
