"""On a workstation: measures a bundle's variants, delegates and threads here or on a device, and picks the best of them."""
