"""`mtrobust methods [NAME …]`: what is registered in `mtrobust.perturb.METHODS`."""

from __future__ import annotations

from mtrobust.commands.listing import option_lines
from mtrobust.commands.parser import Parser


def run(argv: list[str]) -> int:
    """Prints each method with its paper, options, types and defaults."""
    parser = Parser(prog="mtrobust methods", description="The perturbation methods with their options and defaults.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods to show; default: all")
    args = parser.parse(argv)

    from mtrobust.perturb import METHODS

    chosen = [(name, METHODS[name]) for name in args.names] or list(METHODS.items())
    for number, (name, method) in enumerate(chosen):
        print(("\n" if number else "") + f"{name}: {method.summary}")
        if any(map(str.isalpha, method.paper)):
            print(f"  {method.paper}")
        print("\n".join(option_lines(method.Options)) or "  no options")
    return 0
