"""All sections of params.yaml. `python -m darkroom.params.sections FILE SECTION` lists the errors in a file."""

import json
import sys
from pathlib import Path

from darkroom.params.acquire import AcquireParams
from darkroom.params.augment import AugmentParams
from darkroom.params.evaluate import EvaluateParams
from darkroom.params.explain import ExplainParams
from darkroom.params.section import Section, describe_unknown, list_section_errors, read_document
from darkroom.params.split import SplitParams
from darkroom.params.train import TrainParams

SECTIONS: dict[str, type[Section]] = {
    "acquire": AcquireParams,
    "augment": AugmentParams,
    "split": SplitParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "explain": ExplainParams,
}


def list_file_errors(path: Path, required: str) -> list[str]:
    """List the errors in all sections of a params file, a line each; the section `required` must be there.

    Raises:
        StageError: the file is missing or not valid YAML.
    """
    document = read_document(path)
    errors = [f"{path}: {describe_unknown(str(key), SECTIONS)}" for key in document if key not in SECTIONS]
    for name, section in SECTIONS.items():
        if name in document or name == required:
            errors += [f"{path}: {name}: {error}" for error in list_section_errors(document.get(name), section)]
    return errors


if __name__ == "__main__":
    print(json.dumps(list_file_errors(Path(sys.argv[1]), sys.argv[2])))
