"""`make torture`: random faults over a running study, then a check of what was lost or changed."""
