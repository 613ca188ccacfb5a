# Runs a block in one transaction, with the claims of a verified token.
module Tenancy
  def self.acting_as(claims)
    ActiveRecord::Base.transaction do
      connection = ActiveRecord::Base.connection
      # The third argument limits the setting to this transaction, so the next user of a pooled connection
      # does not inherit it.
      connection.execute("select set_config('request.jwt.claims', #{connection.quote(claims.to_json)}, true)")
      yield
    end
  end
end
