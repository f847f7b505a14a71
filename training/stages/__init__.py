"""The three stages: identity and emotion apart, then joint."""
