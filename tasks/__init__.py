"""Units of retry and progress, one file a stage: they call ltxcore and create artifacts in Prefect."""
