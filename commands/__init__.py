"""What a person runs by hand on what the pipeline made."""

import darkroom as darkroom  # sets the environment that TensorFlow and MLflow read when they are imported
