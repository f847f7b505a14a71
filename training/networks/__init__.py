"""The networks: identity (deepid), emotion (resnet) and both joined (tandem)."""
