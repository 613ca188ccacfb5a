// Runs a request in one transaction, with the claims of its verified token.
export function actingAs(prisma, claims, work) {
  return prisma.$transaction(async (tx) => {
    // The third argument limits the setting to this transaction, so the next user of a pooled connection does
    // not inherit it.
    await tx.$executeRaw`select set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`;
    return work(tx);
  });
}
