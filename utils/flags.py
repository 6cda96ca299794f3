"""Flags as --help shows them."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """With every default, but for flags without one, whose text says what happens then."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)
