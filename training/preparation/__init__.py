"""Turn downloaded data sets into prepared ones: the service's own face pipeline crops every image."""
