"""Files with which people serve studies to others, and what starts them without containers."""
