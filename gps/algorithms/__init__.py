"""One file per published method; they differ only where the papers do."""
