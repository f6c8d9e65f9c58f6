"""What the stages and the commands import, a package per subject. Importing it sets environment variables.

It must be here: TensorFlow, MLflow and the backends of Keras read them while they are imported themselves.
"""

import os

# Asked now, because the imports that follow take seconds, in which the process that started this one may end.
STARTED_BY = os.getppid()

# TensorFlow's native side reads this while it is imported, before any code of a stage could set it; a value that
# the user has exported wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Backends read these while they start. Memory of a GPU is taken as it is needed, so that others can use it as well, and
# every operation is to give the same bits each time.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")

# MLflow reports to its makers how it is used unless it is told otherwise; and a bar for files that are there in no time
# is noise.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
