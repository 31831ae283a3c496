"""What people ask of ctfw away from the packet loop: `capture` reads files of packets, `replay` judges them."""
