"""What a person with a GPU and little time runs: checks first, measurements after."""
