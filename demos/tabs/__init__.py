"""One file a tab: its components, and what each event asks and shows."""
