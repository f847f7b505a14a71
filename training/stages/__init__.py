"""The training stages: identity and emotion apart, then joint; and the probe that the comparison uses."""
