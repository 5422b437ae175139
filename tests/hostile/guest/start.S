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

	// The way of a second processor, copied to a page below 1 MiB, from real
	// mode to C. What it needs of the first one's state is filled in there.
	.code16
	.globl second_begin, second_end, second_cr0, second_cr3, second_cr4, second_far, second_gdt
	.globl second_gdt_at
second_begin:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl second_gdt_size - second_begin
	movl second_cr4 - second_begin, %eax
	movl %eax, %cr4
	movl second_cr3 - second_begin, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx	// EFER: LME
	xorl %edx, %edx
	movl $0x100, %eax
	wrmsr
	movl second_cr0 - second_begin, %eax
	movl %eax, %cr0
	ljmpl *(second_far - second_begin)
	.balign 8
second_cr0:	.long 0
second_cr3:	.long 0
second_cr4:	.long 0
second_far:	.long 0
	.word 8
second_gdt_size: .word 23
second_gdt_at:	.long 0
	.balign 8
second_gdt:	.quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
second_end:

	.code64
	.globl second_start
second_start:
	movl $16, %eax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	leaq second_stack_top(%rip), %rsp
	call second_main
3:	cli
	hlt
	jmp 3b

	.bss
	.balign 16
	.skip 16384
stack_top:
	.skip 16384
second_stack_top:
	.section .note.GNU-stack, "", @progbits
