"""The options of every command. Each field of a settings class is an option of the same name."""
