"""What attackers train or fit before anything is poisoned."""
