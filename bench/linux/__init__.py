"""Compares a Linux guest of ours on KVM with the same guest of QEMU on the same KVM."""
