"""The words everybody uses: the typed schema of a job, its rules and the YAML groups."""
