"""What is particular to video: clips, losses, discriminators, the command."""
