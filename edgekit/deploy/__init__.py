"""On a workstation: puts a bundle on a device over one SSH channel, so that the device is as it was or as it should be."""
