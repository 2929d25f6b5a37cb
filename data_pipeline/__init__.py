"""From any source of labelled images to verified TFRecords, and from those to batches in one order."""
