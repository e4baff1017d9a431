"""Scoring methods side by side: settings, methods, facts about them, tables and files."""
