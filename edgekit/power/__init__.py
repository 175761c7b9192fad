"""Power on the workstation: what could have been done at best, a simulator, and traces judged by both. Wants scipy."""
