"""`python -m keras_norm examine model.keras`: examines a saved model, without data."""

import argparse
import json
import sys
from collections.abc import Sequence

import keras

from keras_norm.models import examine


def main(arguments: Sequence[str] | None = None) -> int:
    """Examines the model in a file and prints the report. Returns 1 if a finding is severe."""
    parser = argparse.ArgumentParser("python -m keras_norm", description="Tools for saved models.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "examine",
        help="find problems with the normalizations of a model",
        description="Examines the normalizations of a model without data, and exits with 1 if a finding is severe. "
        "The model is loaded in safe mode, so no code in the file is run.",
    )
    command.add_argument("model", help="a .keras or .h5 file")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(arguments)
    try:
        model = keras.saving.load_model(given.model, safe_mode=True)
    except Exception as error:  # a damaged file or a class in it may raise anything
        command.error(
            f"model must be a file that Keras can load in safe mode. Received: {given.model}: {error} "
            "(own classes must be registered, and Lambda layers need code: call keras_norm.models.examine in Python)."
        )
    report = examine(model)
    print(json.dumps(report.to_dict(), indent=2) if given.json else report)
    return int(any(finding.severity == "severe" for finding in report.findings))


if __name__ == "__main__":
    sys.exit(main())
