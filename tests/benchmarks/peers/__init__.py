"""The same work as users of other tools write it, each after that tool's own documentation."""
