// The processor: ports, and the ways in which a guest ends or does nothing.
#include "lib.h"

CASE(ports, "all I/O ports in all widths, but for the two that reset", "")
{
	for (u32 port = 0; port < 0x10000; port += port < 0x1000 ? 1 : 97) {
		if ((port >= 0x60 && port <= 0x64) || (port >= 0xcf6 && port <= 0xcf9))
			continue;
		u32 v;
		__asm__ volatile("outb %%al, %%dx; outw %%ax, %%dx; outl %%eax, %%dx" ::"a"(-1), "d"(port));
		__asm__ volatile("inb %%dx, %%al; inw %%dx, %%ax; inl %%dx, %%eax" : "=a"(v) : "d"(port));
	}
	rng_works();
}

CASE(string_io, "string instructions on I/O ports, 16 KiB at once", "")
{
	u8 *b = alloc(64 << 10, 4096);
	static const u16 port[] = {0x71, 0x80, 0x64, 0x3f8, 0xffff};
	memset(b, 0, 64 << 10);
	for (u32 i = 0; i < LEN(port); i++) {
		void *p = b;
		u64 n = 16 << 10;
		__asm__ volatile("rep insb" : "+D"(p), "+c"(n) : "d"(port[i]) : "memory");
		memset(b, 0, 64 << 10);
		p = b;
		n = 4 << 10;
		__asm__ volatile("rep outsl" : "+S"(p), "+c"(n) : "d"(port[i]) : "memory");
	}
	rng_works();
}

CASE(triple_fault, "an exception without a handler", "exit=shutdown") { __asm__ volatile("ud2"); }

CASE(page_fault, "a jump to an address that is not mapped", "exit=shutdown")
{
	__asm__ volatile("jmp *%0" ::"r"(0x7fff00000000ul));
}

CASE(stack_gone, "a fault on a stack that is not there", "exit=shutdown")
{
	__asm__ volatile("movq %0, %%rsp; push %%rax" ::"r"(0x7fff00000000ul));
}

CASE(execute_device, "a jump into the registers of a device", "exit=dead")
{
	__asm__ volatile("jmp *%0" ::"r"(find(RNG, 0) + 0xff0));
}

CASE(halt, "the processor is halted for good", "exit=stopped")
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

CASE(spin, "an endless loop", "exit=stopped")
{
	for (;;)
		__asm__ volatile("pause");
}

CASE(port_storm, "an endless loop of port writes", "exit=stopped")
{
	for (;;)
		outb(0x80, 0);
}

CASE(register_storm, "an endless loop of bad register accesses", "exit=stopped")
{
	u64 dev = find(RNG, 0);
	for (;;) {
		w8(dev + STATUS, 1);
		w32(dev + QUEUE_NOTIFY, 99);
		r16(dev + 2);
	}
}
