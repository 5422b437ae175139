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

// The second processor begins here, copied to 0x8000, in real mode: straight to
// long mode with the first one's page tables.
	.globl second_begin, second_end, second_entry
	.code16
second_begin:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	lgdtl 0x8000 + gdtr - second_begin
	movl %cr4, %eax
	orl $0x20, %eax
	movl %eax, %cr4
	movl $0x9000, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl $0x80000001, %eax
	orl $0x10, %eax
	movl %eax, %cr0
	ljmpl $8, $(0x8000 + second_long - second_begin)
	.code64
second_long:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $second_stack, %esp
	movq second_entry, %rax
	jmp *%rax
	.balign 8
gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:
	.word 23
	.long 0x8000 + gdt - second_begin
second_end:

	.bss
	.balign 16
	.skip 16384
stack_top:
	.skip 4096
second_stack:
second_entry:
	.skip 8
	.section .note.GNU-stack, "", @progbits
