"""A module for each tab: its components and the handlers of their events."""
