"""What HQ measures about a bundle before it leaves."""
