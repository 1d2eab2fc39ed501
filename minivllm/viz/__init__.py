"""Pictures: what every drawing of the package shares. Loads without torch and without matplotlib."""
