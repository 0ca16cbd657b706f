"""Preference data: loaders, filters that count what they drop, the report on the data, and export."""
