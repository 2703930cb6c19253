"""Units of retry and progress, one file a stage: they call ltxcore and leave artifacts in Prefect."""
