// The way from the 64-bit boot protocol to C: a stack, and page tables that
// reach the devices.
	.text
	.globl start
start:
	cld
	leaq stack_top(%rip), %rsp
	// 3 to 4 GiB in pages of 2 MiB, uncached: entry 3 of the table at 0xa000.
	movl $0x40000, %edi
	movq $0xc0000093, %rax
	movl $512, %ecx
1:	movq %rax, (%rdi)
	addq $0x200000, %rax
	addq $8, %rdi
	decl %ecx
	jnz 1b
	movq $0x40003, 0xa018
	movq %cr3, %rax
	movq %rax, %cr3
	call main
2:	cli
	hlt
	jmp 2b

	.bss
	.balign 16
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
