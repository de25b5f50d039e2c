"""The machine below: process settings, device, ranks. Nothing here knows faces."""
