"""The training package: identity, emotion and joint stages, their protocols, and the export."""
