"""Who drives a job. `here` is this process (`launcher/drive.py`); others get a file each."""
