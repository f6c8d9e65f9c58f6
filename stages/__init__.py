"""The stages of the pipeline (verbs, run with `python -m stages.<name>`) and what they import (`stages.lib`, nouns)."""

import os

# Asked now, because the imports that follow take seconds, in which the process that started this one may end.
STARTED_BY = os.getppid()

# TensorFlow's native side reads this while it is imported, before any code of a stage could set it; a value that
# the user has exported wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
