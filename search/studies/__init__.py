"""Each file is one study: `make studies` lists them, and a new file here is a new study."""
