"""virtio devices (version 1.2) on the MMIO transport, for both machines.

abi        numbers and structs of the specification
ram        guest RAM as a device accesses it
chain      requests; queue, the split virtqueues that they are in
transport  the registers of virtio-mmio: one for every device
function   what a device is behind them
work       which thread processes requests
described  the part of a device's description that is its own
block      disks; image, the file behind one, and image_lock, who may open it
network    network cards; link, what one is connected to, and passt, the program behind one
frames     network frames, many at a time
console    a console with one port
entropy    random numbers
models     makes devices of what backs them here

Private: machines offer their devices by name.
"""
