"""The networks: identity (deepid), emotion (resnet), and the two joined (tandem)."""
