"""The command line: `gps train`, `eval`, `compare`, `demo`, `envs`, `algorithms`."""
