"""A run: the configuration, the folder, the seeds, LightningCLI, the report."""
