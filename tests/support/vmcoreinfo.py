"""A VMCOREINFO text as Linux 6.12 writes it on arm64, shortened."""

TABLE_OFFSET = 0x3000


def vmcoreinfo(ram: int = 0x4000_0000, *, release: str = "6.12.1-test") -> bytes:
    """Return a text whose tables are at gpa `ram` + TABLE_OFFSET."""
    lines = (
        f"OSRELEASE={release}",
        "BUILD-ID=d3b07384d113edec49eaa6238ad5ff00d3b07384",
        "PAGESIZE=4096",
        "SYMBOL(init_uts_ns)=ffff800081a00010",
        f"SYMBOL(swapper_pg_dir)={0xFFFF_8000_8000_0000 + TABLE_OFFSET:x}",
        "OFFSET(list_head.next)=0",
        "NUMBER(VA_BITS)=48",
        f"NUMBER(kimage_voffset)={0xFFFF_8000_8000_0000 - ram:#x}",
        "NUMBER(TCR_EL1_T1SZ)=0x10",
        "KERNELOFFSET=2a73bfc00000",
    )
    return "".join(f"{line}\n" for line in lines).encode()
